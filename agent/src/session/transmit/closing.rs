//! How a connection comes to its end: by its client, by an error, or because the agent goes away.

use tokio::sync::watch;

use super::{
    super::{End, Life, Traffic},
    Transmission,
};

impl Transmission {
    /// Runs to the end.
    pub(in crate::session) async fn run(
        self: Box<Self>,
        mut life: watch::Receiver<Life>,
    ) -> (End, Traffic) {
        let (mut this, end) = self.carry(&mut life).await;
        if end == End::Disconnected && this.blocking.throttles {
            tokio::select! {
                () = this.disk.linger() => {}
                _ = life.wait_for(|life| *life == Life::Ending) => {}
            }
        }
        // Who comes again at the end of this one finds its place free, and its disk.
        drop((this.blocking, this.disk));
        this.stream.wire().release();
        if end == End::Disconnected {
            // The client closes first. Over vsock Linux answers ENOTCONN, and not an end of the stream, to
            // one that says it sends no more when the other side has closed already, as libnbd does.
            this.stream.finish_sending();
            this.stream.wire().linger().await;
        } else {
            this.stream.say_goodbye();
        }
        (end, this.traffic)
    }

    /// The agent is going away: nothing new is taken in; what was is finished, made durable and
    /// answered.
    pub(super) async fn drain(&mut self, life: &mut watch::Receiver<Life>) -> End {
        let finishing = async {
            loop {
                self.reap();
                if let Err(error) = self.send() {
                    return End::from_send(&error);
                }
                if self.blocking.is_empty() && self.is_all_sent() {
                    break;
                }
                tokio::select! {
                    _ = self.stream.writable(), if self.stuck => {}
                    () = self.blocking.some() => {}
                }
            }
            self.blocking.flush().await;
            self.stream.finish_sending();
            self.stream.wire().linger().await;
            End::ShutDown
        };
        tokio::select! {
            end = finishing => end,
            _ = life.wait_for(|life| *life == Life::Ending) => End::Cut,
        }
    }
}
