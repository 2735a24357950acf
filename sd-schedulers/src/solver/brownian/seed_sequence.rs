//! numpy's `SeedSequence` (O'Neill's `seed_seq_fe`), from which torchsde takes a seed per interval.

const POOL: usize = 24;

/// The first word of `SeedSequence(entropy, spawn_key=spawn_key, pool_size=24)`.
pub(super) fn generate_state(entropy: u64, spawn_key: &[u64]) -> u32 {
    let mut words = words(entropy);
    if !spawn_key.is_empty() {
        // So that no entropy can be mistaken for a shorter one with a spawn key.
        words.resize(words.len().max(POOL), 0);
    }
    words.extend(spawn_key.iter().flat_map(|&key| self::words(key)));
    first_word(&mix_entropy(&words))
}

/// A number's 32-bit words, the lowest first.
fn words(number: u64) -> Vec<u32> {
    let (low, high) = (number as u32, (number >> 32) as u32);
    if high == 0 {
        vec![low]
    } else {
        vec![low, high]
    }
}

fn mix_entropy(words: &[u32]) -> [u32; POOL] {
    let mut constant = 0x43b0_d7e5u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    };
    let mut pool: [u32; POOL] =
        std::array::from_fn(|i| hash(words.get(i).copied().unwrap_or_default()));
    for source in 0..POOL {
        for target in 0..POOL {
            if source != target {
                pool[target] = mix(pool[target], hash(pool[source]));
            }
        }
    }
    for &word in words.iter().skip(POOL) {
        for value in &mut pool {
            *value = mix(*value, hash(word));
        }
    }
    pool
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = x
        .wrapping_mul(0xca01_f9dd)
        .wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ (mixed >> 16)
}

fn first_word(pool: &[u32; POOL]) -> u32 {
    let constant = 0x8b51_f9ddu32;
    let value = (pool[0] ^ constant).wrapping_mul(constant.wrapping_mul(0x58f3_8ded));
    value ^ (value >> 16)
}
