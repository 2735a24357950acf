/// Result of a kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Arguments that do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice of another length than its dimensions give.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Name of the slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that would be right.
        expected: usize,
    },
    /// A dimension outside its range.
    #[error("{name} is {value}; {expected}")]
    Dimension {
        /// The dimension's name.
        name: &'static str,
        /// Its value.
        value: usize,
        /// Values that would be right.
        expected: &'static str,
    },
    /// Memory that the system does not have.
    #[error("there is no memory for {bytes} bytes of weights")]
    OutOfMemory {
        /// The size asked for.
        bytes: usize,
    },
}

/// An [`Error::Length`] unless `found` is the product of `dims`.
pub(crate) fn check_len(what: &'static str, found: usize, dims: &[usize]) -> Result<()> {
    // An overflowing product cannot be the length of a slice.
    let expected = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .unwrap_or(usize::MAX);
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            found,
            expected,
        })
    }
}

/// As [`check_len`], where the slice may be absent.
pub(crate) fn check_option(what: &'static str, x: Option<&[f32]>, dims: &[usize]) -> Result<()> {
    x.map_or(Ok(()), |x| check_len(what, x.len(), dims))
}
