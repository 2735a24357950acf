//! The planner against limits, for the full-width autoencoder of Stable Diffusion.

use burn::tensor::Device;
use proptest::prelude::*;
use sd_core::Error;
use sd_models::vae::{AutoencoderKL, DecodePlan, Direction, Limits, VaeConfig};

const MIB: u64 = 1 << 20;

/// Stable Diffusion 1.x, 2.x and XL.
fn full_width() -> AutoencoderKL {
    let config = VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        norm_num_groups: 32,
        scaling_factor: 0.18215,
        shift_factor: 0.0,
        latents: None,
        use_quant_conv: true,
        use_post_quant_conv: true,
        mid_block_add_attention: true,
        force_upcast: true,
        sample_size: 512,
    };
    AutoencoderKL::new(&config, &Device::flex())
}

fn plan(
    direction: Direction,
    side: usize,
    kernels: bool,
    limits: Limits,
) -> Result<DecodePlan, Error> {
    DecodePlan::new(
        &full_width(),
        direction,
        [side / 8; 2],
        (4, kernels),
        limits,
    )
}

fn whole(direction: Direction, side: usize, kernels: bool) -> DecodePlan {
    DecodePlan::whole(&full_width(), direction, [side / 8; 2], (4, kernels))
}

fn buffer(bytes: u64) -> Limits {
    Limits {
        largest_buffer: Some(bytes),
        budget: None,
    }
}

fn budget(bytes: u64) -> Limits {
    Limits {
        largest_buffer: None,
        budget: Some(bytes),
    }
}

/// The largest picture inside the decoder has 256 channels at the full resolution; whole, three
/// of it are held.
#[test]
fn whole_three_large_pictures_are_held() {
    for (side, largest) in [(512, 256 * MIB), (1024, 1024 * MIB), (2048, 4096 * MIB)] {
        let plan = whole(Direction::Decode, side, true);
        assert_eq!(plan.strips, None);
        assert_eq!(plan.largest_buffer, largest);
        assert_eq!(plan.peak_bytes, 3 * largest);
    }
}

/// The CPU kernels are faster in strips, a backend's launch fewer kernels for a whole picture.
#[test]
fn whole_is_what_fits_where_a_backend_computes() {
    let none = Limits::default();
    let on_gpu = plan(Direction::Decode, 1024, false, none).expect("it fits");
    assert_eq!(on_gpu, whole(Direction::Decode, 1024, false));
    let on_cpu = plan(Direction::Decode, 1024, true, none).expect("it fits");
    assert!(on_cpu.strips.is_some());
    let small = plan(Direction::Decode, 64, true, none).expect("it fits");
    assert_eq!(small, whole(Direction::Decode, 64, true));
}

/// wgpu's smallest limit of a storage buffer is 128 MiB, that of many drivers 2 GiB.
#[test]
fn a_device_s_largest_buffer_is_kept() {
    for direction in [Direction::Decode, Direction::Encode] {
        for side in [1024, 2048] {
            for largest in [128 * MIB, 256 * MIB, 512 * MIB] {
                let plan = plan(direction, side, false, buffer(largest)).expect("it fits");
                assert!(
                    plan.largest_buffer <= largest,
                    "{direction} {side}: {plan:?}"
                );
                let whole = whole(direction, side, false);
                if whole.largest_buffer <= largest {
                    // Encoding 1024² has 128 channels at most, exactly 512 MiB.
                    assert_eq!(
                        (direction, side, largest),
                        (Direction::Encode, 1024, 512 * MIB)
                    );
                    assert_eq!(plan, whole);
                    continue;
                }
                let strips = plan.strips.expect("whole it would not fit");
                let rows: Vec<usize> = (0..4).map(|level| (side / 8) << level).collect();
                assert!(
                    strips
                        .rows
                        .iter()
                        .zip(&rows)
                        .all(|(strip, all)| strip <= all)
                );
                assert!(strips.rows[3] < side);
            }
        }
    }
    let fits = whole(Direction::Decode, 512, false);
    let at_512 = plan(Direction::Decode, 512, false, buffer(fits.largest_buffer)).expect("it fits");
    assert_eq!(at_512, fits);
}

/// What strips save is what a layer holds beside its input and its output.
#[test]
fn strips_take_half_the_memory() {
    for side in [1024, 2048] {
        let whole = whole(Direction::Decode, side, true);
        let strips = plan(
            Direction::Decode,
            side,
            true,
            budget(whole.peak_bytes * 55 / 100),
        );
        let strips = strips.expect("it fits");
        assert!(strips.strips.is_some());
        // A third of the whole's peak in each of the two pictures that a residual block needs.
        assert!(strips.peak_bytes >= whole.peak_bytes / 2);
        let error = plan(
            Direction::Decode,
            side,
            true,
            budget(whole.peak_bytes * 45 / 100),
        );
        assert!(matches!(
            error,
            Err(Error::Memory {
                limit: "the memory budget",
                ..
            })
        ));
    }
}

#[test]
fn a_size_that_no_memory_holds_is_an_error() {
    let plan = |side| {
        let model = full_width();
        DecodePlan::new(
            &model,
            Direction::Decode,
            [side; 2],
            (4, true),
            budget(1 << 40),
        )
    };
    assert!(matches!(plan(1 << 14), Err(Error::Memory { .. })));
    for side in [0, (1 << 14) + 1, usize::MAX] {
        assert!(matches!(
            plan(side),
            Err(Error::InvalidArgument { name: "side", .. })
        ));
    }
}

proptest! {
    #[test]
    fn plans_keep_their_limits_or_say_what_they_need(
        (h, w) in (1usize..300, 1usize..300), encode: bool, kernels: bool, half: bool,
        largest in prop::option::of(1u64..4096), allowed in prop::option::of(1u64..16_384),
    ) {
        let limits = Limits {
            largest_buffer: largest.map(|m| m * MIB / 4),
            budget: allowed.map(|m| m * MIB / 4),
        };
        let direction = if encode { Direction::Encode } else { Direction::Decode };
        let number = if half { 2 } else { 4 };
        let (model, numbers) = (full_width(), (number, kernels));
        let plan = |limits| DecodePlan::new(&model, direction, [h, w], numbers, limits);
        let whole = DecodePlan::whole(&model, direction, [h, w], numbers);
        match plan(limits) {
            Ok(plan) => {
                prop_assert!(limits.budget.is_none_or(|budget| plan.peak_bytes <= budget));
                prop_assert!(limits.largest_buffer.is_none_or(|b| plan.largest_buffer <= b));
                match &plan.strips {
                    None => prop_assert_eq!(&plan, &whole),
                    Some(strips) => {
                        prop_assert_eq!(strips.rows.len(), 4);
                        for (level, rows) in strips.rows.iter().enumerate() {
                            prop_assert!((1..=h << level).contains(rows));
                        }
                        prop_assert!((1..=h).contains(&strips.attention));
                    }
                }
            }
            Err(Error::Memory { needed, allowed, limit, .. }) => {
                prop_assert!(needed > allowed);
                // With what it says it needs, it does not fail for the same reason.
                let mut more = limits;
                match limit {
                    "the memory budget" => more.budget = Some(needed),
                    _ => more.largest_buffer = Some(needed),
                }
                if let Err(Error::Memory { limit: next, .. }) = plan(more) {
                    prop_assert_ne!(next, limit);
                }
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
