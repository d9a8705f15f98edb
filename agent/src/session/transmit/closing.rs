//! How a connection ends: because of its client, an error, or the shutdown of the agent.

use tokio::sync::watch;

use super::{
    super::{
        end::{End, Life},
        traffic::Traffic,
    },
    Transmission,
};

impl Transmission {
    /// Runs the connection to its end.
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
        // A client that reconnects at the end of this connection finds its place and its disk free.
        drop((this.blocking, this.disk));
        this.stream.wire().release();
        if end == End::Disconnected {
            // Lets the client close first. Some clients, such as libnbd, shut down their sending after NBD_CMD_DISC. If
            // this side has already closed, Linux answers that with ENOTCONN over vsock, not with an end of the stream.
            this.stream.finish_sending();
            this.stream.wire().linger().await;
        } else {
            this.stream.say_goodbye();
        }
        (end, this.traffic)
    }

    /// Drains the connection at the agent's shutdown: nothing new is taken in, and requests in progress are finished,
    /// made durable and answered.
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
