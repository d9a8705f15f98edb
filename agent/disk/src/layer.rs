//! A disk around another disk, which nbdkit calls a filter.
//!
//! A layer implements `Layer` and states only what it changes. The implementation of `Disk` for every `Layer` is
//! generic, so a layer costs no dynamic call besides the one into the disk below.

use std::fmt;

use crate::{Answer, Asked, Disk, DiskError, DiskInfo, Op, Progress, Throttle, Turn, Waiter};

/// A disk that hands its requests on to the disk below it.
///
/// Every method but `below` and `passes` is the method of `Disk` with the same name. The defaults are safe for a
/// layer that names nothing: each request comes to `execute`, and the disk below neither tries nor begins it alone.
pub trait Layer: Send + Sync + fmt::Debug {
    /// The disk that this layer is around.
    fn below(&self) -> &dyn Disk;

    /// Whether the layer does nothing to `op`, neither before it nor after it. The disk below may then try it and
    /// begin it in place of the layer.
    fn passes(&self, _: &Op<'_>) -> bool {
        false
    }

    /// The facts of the disk below, unless the layer changes them.
    fn info(&self) -> DiskInfo {
        self.below().info()
    }

    /// Lets the disk below try a request that passes, and leaves every other one to `execute`.
    ///
    /// # Errors
    /// As `Disk::try_execute`.
    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if self.passes(op) { self.below().try_execute(op, answer) } else { Ok(Turn::WouldBlock) }
    }

    /// Has the disk below execute the request.
    ///
    /// # Errors
    /// As `Disk::execute`.
    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.below().execute(op, answer)
    }

    /// Whether the disk below begins requests.
    fn begins(&self) -> bool {
        self.below().begins()
    }

    /// Lets the disk below begin a request that passes, and has every other one executed.
    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        if self.passes(op) {
            self.below().begin(op, waiter);
        } else {
            waiter.blocks(op.take_pages());
        }
    }

    /// Whether the request is brief for the disk below.
    fn is_brief(&self, asked: Asked) -> bool {
        self.below().is_brief(asked)
    }

    /// Whether the disk below throttles. A layer that throttles answers true.
    fn throttles(&self) -> bool {
        self.below().throttles()
    }

    /// The wait of the disk below. A layer that waits itself awaits this one too.
    fn throttle(&self, asked: Asked) -> Throttle<'_> {
        self.below().throttle(asked)
    }

    /// Whether the disk below is on another machine.
    fn is_remote(&self) -> bool {
        self.below().is_remote()
    }

    /// Tells the disk below that the client has gone.
    fn client_gone(&self) {
        self.below().client_gone();
    }

    /// The wait of the disk below before the connection is closed. A layer that waits itself awaits this one too.
    fn linger(&self) -> Throttle<'_> {
        self.below().linger()
    }
}

impl<L: Layer> Disk for L {
    fn info(&self) -> DiskInfo {
        Layer::info(self)
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        Layer::try_execute(self, op, answer)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        Layer::execute(self, op, answer)
    }

    fn begins(&self) -> bool {
        Layer::begins(self)
    }

    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        Layer::begin(self, op, waiter);
    }

    fn is_brief(&self, asked: Asked) -> bool {
        Layer::is_brief(self, asked)
    }

    fn throttles(&self) -> bool {
        Layer::throttles(self)
    }

    fn throttle(&self, asked: Asked) -> Throttle<'_> {
        Layer::throttle(self, asked)
    }

    fn is_remote(&self) -> bool {
        Layer::is_remote(self)
    }

    fn client_gone(&self) {
        Layer::client_gone(self);
    }

    fn linger(&self) -> Throttle<'_> {
        Layer::linger(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        Data, Pages, Verb,
        testing::{Begun, begun, run},
    };

    /// Begins everything, and says yes to every question.
    #[derive(Debug, Default)]
    struct Bottom {
        tried: AtomicUsize,
        executed: AtomicUsize,
        begun: AtomicUsize,
        gone: AtomicUsize,
    }

    impl Bottom {
        fn counts(&self) -> [usize; 3] {
            [&self.tried, &self.executed, &self.begun].map(|count| count.load(Ordering::Relaxed))
        }
    }

    impl Disk for Bottom {
        fn info(&self) -> DiskInfo {
            DiskInfo::plain(4096, None)
        }

        fn try_execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
            self.tried.fetch_add(1, Ordering::Relaxed);
            Ok(Turn::WouldBlock)
        }

        fn execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Progress, DiskError> {
            self.executed.fetch_add(1, Ordering::Relaxed);
            Ok(Progress::Done)
        }

        fn begins(&self) -> bool {
            true
        }

        fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
            self.begun.fetch_add(1, Ordering::Relaxed);
            drop(op.take_pages());
            waiter.done(Answer::default());
        }

        fn is_brief(&self, _: Asked) -> bool {
            true
        }

        fn throttles(&self) -> bool {
            true
        }

        fn is_remote(&self) -> bool {
            true
        }

        fn client_gone(&self) {
            self.gone.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// States only what a layer has to.
    #[derive(Debug)]
    struct Silent(Arc<Bottom>);

    impl Layer for Silent {
        fn below(&self) -> &dyn Disk {
            &*self.0
        }
    }

    /// Does nothing to reads.
    #[derive(Debug)]
    struct ForReads(Arc<Bottom>);

    impl Layer for ForReads {
        fn below(&self) -> &dyn Disk {
            &*self.0
        }

        fn passes(&self, op: &Op<'_>) -> bool {
            op.verb() == Verb::Read
        }
    }

    #[test]
    fn a_layer_that_says_nothing_of_its_requests_executes_each_of_them() {
        let bottom = Arc::new(Bottom::default());
        let layer = Silent(Arc::clone(&bottom));
        run(&layer, &mut Op::Read { at: 0, len: 1 }).unwrap();
        run(&layer, &mut Op::Write { at: 0, data: Data::Bytes(b"x"), fua: false }).unwrap();
        assert_eq!(bottom.counts(), [0, 2, 0]);
    }

    #[test]
    fn the_disk_below_tries_and_begins_only_requests_that_pass() {
        let bottom = Arc::new(Bottom::default());
        let layer = ForReads(Arc::clone(&bottom));
        run(&layer, &mut Op::Read { at: 0, len: 1 }).unwrap();
        assert_eq!(bottom.counts(), [1, 0, 1]);
        run(&layer, &mut Op::Trim { at: 0, len: 1, fua: false }).unwrap();
        assert_eq!(bottom.counts(), [1, 1, 1]);
    }

    #[test]
    fn a_write_that_does_not_pass_keeps_its_payload() {
        let layer = ForReads(Arc::default());
        let mut pages = Pages::copied(0, &[7; 100]).unwrap();
        let mut op = Op::Write { at: 0, data: Data::Pages(&mut pages), fua: false };
        let Begun::Blocks(pages) = begun(&layer, &mut op) else { panic!("it was begun") };
        assert_eq!(pages.len(), 100);
    }

    #[test]
    fn what_a_layer_does_not_change_is_as_below() {
        let bottom = Arc::new(Bottom::default());
        let layer: &dyn Disk = &Silent(Arc::clone(&bottom));
        assert_eq!(layer.info(), bottom.info());
        let asked = Asked { verb: Verb::Read, range: (0, 1), fast: false, durable: false };
        assert!(layer.begins() && layer.is_brief(asked) && layer.throttles() && layer.is_remote());
        layer.client_gone();
        assert_eq!(bottom.gone.load(Ordering::Relaxed), 1);
    }
}
