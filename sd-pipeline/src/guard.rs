//! Keeps a backend's panic from reaching the caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sd_core::Error;

/// Runs `work`; if the backend panics in it (out of memory, a kernel it cannot launch), that
/// becomes an [`Error::Backend`]. What `work` was about to return is lost with it, so no value
/// half written by the panic can be seen.
pub(crate) fn guard<T, E: From<Error>>(
    during: &'static str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::backend(during, message(&*panic)).into()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let result = guard("the test", || -> Result<(), Error> {
            panic!("no more {}", "memory")
        });
        let error = result.unwrap_err().to_string();
        assert_eq!(error, "the backend failed in the test: no more memory");
    }
}
