//! Requests that wait for a medium. They go to the disk, if it completes them by itself, or to the threads of the
//! connection's tenant, and come back as `Finished`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use disk::{Answer, Asked, DATA_PIECE, Data, Disk, DiskError, Kind, Op, Pages, Progress, Waiter};
use nbd::{transmit::Checked, wire::Request};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    fencing::Fenced,
    operation::{caught, op},
    serial::{Serial, Step},
};
use crate::tenant::{Account, Place, Tenant, Work};

/// A request that came back.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) request: Request,
    pub(super) checked: Checked,
    pub(super) result: Result<Answer, DiskError>,
    /// A write's payload. Its memory is returned to the thread that received it.
    pub(super) pages: Pages,
    on_thread: bool,
}

/// The maximum of requests per connection that are out at once, unless the operator sets another.
const MOST: usize = 64;
/// The maximum of these that block a thread each.
const MOST_ON_THREADS: usize = 16;

/// The requests of one connection that are out.
#[derive(Debug)]
pub(super) struct Blocking {
    tenant: Arc<Tenant>,
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    /// The requests that the disk throttles.
    held: JoinSet<()>,
    /// The number of requests that are out, and its maximum.
    out: usize,
    most: usize,
    /// The maximum of requests that may block a thread each.
    most_on_threads: usize,
    /// Payload bytes of the requests that are out.
    bytes: u64,
    /// The memory account of the connection, including these requests.
    pub(super) memory: Account,
    /// The disk throttles requests (`Disk::throttle`).
    pub(super) throttles: bool,
    /// The disk completes some of them by itself (`Disk::begin`).
    begins: bool,
    /// Each request that is out holds a clone, so a connection that replaces this one waits for them.
    fenced: Option<Arc<Fenced>>,
}

/// State shared by the connection and its requests that are out.
#[derive(Debug, Default)]
struct Shared {
    finished: Mutex<Vec<Finished>>,
    /// Notified after each push to `finished`.
    changed: Notify,
    wanted: AtomicU8,
    /// The requests that are out and block a thread each, or wait for one.
    on_threads: AtomicUsize,
    serial: Serial<Task>,
    /// The memory and the place that the tenant is charged for requests still out when the connection is over. They are
    /// freed when the last of these requests is back.
    rest: Mutex<Option<(Account, Place)>>,
}

/// Which of its requests a connection still wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Wanted {
    /// All of them.
    All,
    /// Only short ones: the client has gone.
    Short,
    /// None that has not begun: the connection is over.
    Nothing,
}

impl Shared {
    fn wants(&self, what: Wanted) -> bool {
        self.wanted.load(Ordering::Relaxed) <= what as u8
    }
}

impl Blocking {
    pub(super) fn new(
        tenant: Arc<Tenant>,
        threads: Option<usize>,
        disk: Arc<dyn Disk>,
        fenced: Option<Arc<Fenced>>,
    ) -> Self {
        Self {
            shared: Arc::default(),
            held: JoinSet::new(),
            out: 0,
            most: threads.unwrap_or(MOST),
            most_on_threads: threads.unwrap_or(MOST_ON_THREADS),
            bytes: 0,
            memory: Account::new(Arc::clone(&tenant)),
            throttles: disk.throttles(),
            begins: disk.begins(),
            tenant,
            disk,
            fenced,
        }
    }

    /// No request is out.
    pub(super) fn is_empty(&self) -> bool {
        self.out == 0
    }

    /// Whether another request may go out.
    pub(super) fn has_room(&self, max_bytes: u64) -> bool {
        self.out < self.most
            && self.bytes < max_bytes
            && self.shared.on_threads.load(Ordering::Relaxed) < self.most_on_threads
    }

    /// Called when the client has gone. A long request ends after its current piece. A request that waits for other
    /// requests ends when the disk gives it up.
    pub(super) fn client_gone(&self) {
        self.disk.client_gone();
        self.shared.wanted.fetch_max(Wanted::Short as u8, Ordering::Relaxed);
    }

    /// Has a request executed, once the disk no longer throttles it. `pages` is a write's payload.
    pub(super) fn launch(
        &mut self,
        request: Request,
        checked: Checked,
        asked: Asked,
        pages: Option<Pages>,
    ) {
        self.out += 1;
        self.bytes += payload(checked);
        let task = Box::new(Task {
            tenant: Arc::clone(&self.tenant),
            disk: Arc::clone(&self.disk),
            request,
            checked,
            pages: pages.unwrap_or_default(),
            answer: Answer::default(),
            begun: false,
            on_thread: false,
            shared: Arc::clone(&self.shared),
            fenced: self.fenced.clone(),
        });
        let begins = self.begins;
        if !self.throttles {
            return task.start(begins);
        }
        self.held.spawn(async move {
            task.disk.throttle(asked).await;
            task.start(begins);
        });
    }

    /// Takes the requests that have come back.
    pub(super) fn reap(&mut self) -> Vec<Finished> {
        if self.out == 0 {
            return Vec::new();
        }
        while self.held.try_join_next().is_some() {}
        let finished = std::mem::take(&mut *lock(&self.shared.finished));
        let mut on_threads = 0;
        for finished in &finished {
            self.out -= 1;
            self.bytes -= payload(finished.checked);
            on_threads += usize::from(finished.on_thread);
        }
        if on_threads > 0 {
            self.shared.on_threads.fetch_sub(on_threads, Ordering::Relaxed);
        }
        finished
    }

    /// Whether `reap` would return a request.
    pub(super) fn has_finished(&self) -> bool {
        self.out > 0 && !lock(&self.shared.finished).is_empty()
    }

    /// Bytes of memory that the requests hold.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until `reap` has a request to return; forever if no request is out.
    pub(super) fn some(&self) -> impl Future<Output = ()> + use<> {
        let (shared, out) = (Arc::clone(&self.shared), self.out);
        async move {
            while out == 0 || lock(&shared.finished).is_empty() {
                shared.changed.notified().await;
            }
        }
    }

    /// Makes all writes durable. An error is only logged, since no client is left to be told.
    pub(super) async fn flush(&mut self) {
        let disk = Arc::clone(&self.disk);
        let flushed = self.tenant.run(move || {
            let mut answer = Answer::default();
            disk::execute_all(&*disk, &mut Op::Settle, &mut answer)
        });
        if let Some(Err(error)) = flushed.await {
            tracing::error!(
                target: disk::LOSS,
                error = %error.with_cause(),
                "the last flush failed"
            );
        }
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        if self.out > 0 {
            self.disk.client_gone();
            self.memory.release_to(self.bytes);
            let memory =
                std::mem::replace(&mut self.memory, Account::new(Arc::clone(&self.tenant)));
            *lock(&self.shared.rest) = Some((memory, self.tenant.stay()));
        }
        self.shared.wanted.store(Wanted::Nothing as u8, Ordering::Relaxed);
    }
}

/// A request that is out.
#[derive(Debug)]
pub(super) struct Task {
    tenant: Arc<Tenant>,
    disk: Arc<dyn Disk>,
    request: Request,
    /// The remaining part of the request.
    checked: Checked,
    pages: Pages,
    answer: Answer,
    begun: bool,
    /// It blocks a thread, or waits for one.
    on_thread: bool,
    shared: Arc<Shared>,
    /// May outlive the session.
    fenced: Option<Arc<Fenced>>,
}

impl Work for Task {
    fn is_long(&self) -> bool {
        let busy = self.goes_on() || matches!(self.checked, Checked::Extents { .. });
        busy && !self.disk.is_remote()
    }

    fn stays_short(&self) -> bool {
        self.disk.is_remote()
    }

    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        self.go_on().map(|rest| rest as Box<dyn Work>)
    }
}

impl Step for Task {
    fn go_on(mut self: Box<Self>) -> Option<Box<Self>> {
        let wanted = if self.begun || self.goes_on() { Wanted::All } else { Wanted::Short };
        if !self.shared.wants(wanted) {
            let error = {
                let op = op(self.checked, Data::Bytes(&[]));
                DiskError::new(Kind::ShutDown, op.verb(), op.range())
            };
            (*self).finish(Err(error));
            return None;
        }
        match self.execute() {
            Ok(Progress::Until(bytes)) => {
                self.checked = self.checked.after(bytes);
                self.begun = true;
                return Some(self);
            }
            Ok(Progress::Done) => {
                let answer = std::mem::take(&mut self.answer);
                (*self).finish(Ok(answer));
            }
            Err(error) => match self.checked {
                // The disk has zeroed one part fast and cannot zero the next one fast. To fail now would claim that
                // nothing has changed.
                Checked::Zero { at, len, fua, may_trim, fast: true }
                    if self.begun && error.kind == Kind::Unsupported =>
                {
                    self.checked = Checked::Zero { at, len, fua, may_trim, fast: false };
                    return Some(self);
                }
                _ => (*self).finish(Err(error)),
            },
        }
        None
    }
}

impl Waiter for Task {
    fn done(self: Box<Self>, answer: Answer) {
        (*self).finish(Ok(answer));
    }

    fn blocks(mut self: Box<Self>, pages: Pages) {
        self.pages = pages;
        self.queue();
    }
}

impl Task {
    /// Hands it to the disk if `begins`, else to a thread.
    fn start(mut self: Box<Self>, begins: bool) {
        if begins {
            let (disk, mut pages) = (Arc::clone(&self.disk), std::mem::take(&mut self.pages));
            disk.begin(&mut op(self.checked, Data::Pages(&mut pages)), self);
        } else {
            self.queue();
        }
    }

    /// Hands it to a thread of the tenant.
    fn queue(mut self: Box<Self>) {
        let (tenant, shared) = (Arc::clone(&self.tenant), Arc::clone(&self.shared));
        if self.disk.is_brief(op(self.checked, Data::Pages(&mut self.pages)).asked()) {
            return shared.serial.push(self, &tenant);
        }
        self.on_thread = true;
        shared.on_threads.fetch_add(1, Ordering::Relaxed);
        tenant.submit(self);
    }

    /// Whether it may take more than one call.
    fn goes_on(&self) -> bool {
        match self.checked {
            Checked::Trim { len, .. } | Checked::Zero { len, .. } | Checked::Cache { len, .. } => {
                len > DATA_PIECE
            }
            _ => false,
        }
    }

    fn execute(&mut self) -> Result<Progress, DiskError> {
        let mut op = op(self.checked, Data::Pages(&mut self.pages));
        let (verb, range) = (op.verb(), op.range());
        caught(verb, range, || self.disk.execute(&mut op, &mut self.answer))
    }

    fn finish(mut self, result: Result<Answer, DiskError>) {
        let (request, checked) = (self.request, self.checked);
        // Dropped before the client can learn that the request is done. The client may ask on another connection, and
        // it relies on the memory being free and no longer charged.
        self.fenced = None;
        let (pages, on_thread) = (std::mem::take(&mut self.pages), self.on_thread);
        let finished = Finished { request, checked, result, pages, on_thread };
        lock(&self.shared.finished).push(finished);
        self.shared.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn payload(checked: Checked) -> u64 {
    match checked {
        Checked::Read { len, .. } | Checked::Write { len, .. } => len.into(),
        _ => 0,
    }
}
