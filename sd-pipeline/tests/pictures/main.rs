//! Pictures as files hold and programs alter them, beside the programs whose bytes they should have.

mod files;
mod records;
mod resample;
mod watermark;
