use super::Layout;

/// The parts of transformers' text encoder.
const PARTS: &[&str] = &["embeddings", "encoder", "final_layer_norm"];

impl Layout {
    /// Table of a text encoder that a file holds as transformers has it, as those of Stable
    /// Diffusion 1 and SDXL's first.
    pub fn clip() -> Self {
        let mut table = Self::new();
        let parts: Vec<(&str, &str)> = PARTS.iter().map(|part| (*part, *part)).collect();
        table.rows_in("", "transformer.text_model", &parts);
        let projection = [("text_projection", "text_projection")];
        table.rows_in("", "transformer", &projection);
        table
    }
}
