//! Prompts as compel reads them.
