//! The thread that reads from all remote servers. There is one for all links, however many a client
//! opens.

use std::{future, io, sync::Mutex, sync::PoisonError, thread};

use tokio::runtime::{Builder, Handle};

static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);

/// The thread's runtime. The first call starts it.
pub(super) fn runtime() -> io::Result<Handle> {
    let mut started = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*started {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("remote".into())
        .spawn(move || runtime.block_on(future::pending::<()>()))?;
    Ok(started.insert(handle).clone())
}
