//! The networks of Stable Diffusion on Burn, and the files they load from.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod layers;
