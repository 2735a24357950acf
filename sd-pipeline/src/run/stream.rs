use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use futures_core::Stream;
use sd_core::Cancel;

use super::{Progress, Run};
use crate::Result;

/// A [`Run`] as a stream of its steps, for asynchronous programs: a thread of its own computes, the
/// stream only waits. Dropping it cancels the run, inside a step.
///
/// Steps are not held back when the program does not ask for them.
pub struct RunStream {
    shared: Arc<Mutex<Shared>>,
    cancel: Cancel,
    thread: Option<JoinHandle<Run>>,
}

#[derive(Default)]
struct Shared {
    steps: VecDeque<Result<Progress>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Run {
    /// This run as a stream of its steps, computed by a thread of their own.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the system has no thread to give.
    pub fn into_stream(mut self) -> Result<RunStream> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (cancel, there) = (self.cancel_handle(), shared.clone());
        let work = move || {
            let ended = End(there.clone());
            for step in &mut self {
                let stop = step.is_err();
                let mut shared = lock(&there);
                shared.steps.push_back(step);
                wake(shared);
                if stop {
                    break;
                }
            }
            drop(ended);
            self
        };
        let thread = std::thread::Builder::new().name("run".into()).spawn(work);
        let thread = thread.map_err(crate::Error::io("a thread for the run".as_ref()))?;
        Ok(RunStream {
            shared,
            cancel,
            thread: Some(thread),
        })
    }
}

impl RunStream {
    /// The handle that stops the run.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The run, for its pictures. Waits for the step that is being computed, if any: at the stream's
    /// end there is none.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) when a component panicked.
    pub fn into_run(mut self) -> Result<Run> {
        let run = self.thread.take().map(JoinHandle::join);
        let lost = || sd_core::Error::backend("a step", "its thread panicked");
        Ok(run.and_then(std::thread::Result::ok).ok_or_else(lost)?)
    }
}

impl Stream for RunStream {
    type Item = Result<Progress>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = lock(&self.shared);
        match shared.steps.pop_front() {
            Some(step) => Poll::Ready(Some(step)),
            None if shared.ended => Poll::Ready(None),
            None => {
                shared.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for RunStream {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.cancel.pull();
        }
    }
}

impl std::fmt::Debug for RunStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunStream").finish_non_exhaustive()
    }
}

/// Says that no step will come any more, also when a component panics.
struct End(Arc<Mutex<Shared>>);

impl Drop for End {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.ended = true;
        wake(shared);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes who waits, without the lock.
fn wake(mut shared: MutexGuard<'_, Shared>) {
    let waker = shared.waker.take();
    drop(shared);
    if let Some(waker) = waker {
        waker.wake();
    }
}
