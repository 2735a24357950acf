# What a change must pass.
check:
    .ci/run

# README's first command.
draw *arguments:
    cargo run --release --example text_to_image -- {{arguments}}
