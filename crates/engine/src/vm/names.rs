//! Generates names for VMs that were given none.

/// 32 words in each list, so that a name uses ten random bits.
const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp", "eager", "fair", "fleet",
    "fond", "gentle", "glad", "keen", "kind", "light", "lively", "lucky", "merry", "mild", "neat", "nimble",
    "noble", "plucky", "proud", "quick", "quiet", "spry", "sunny", "warm",
];
const ANIMALS: [&str; 32] = [
    "badger", "bear", "beaver", "bison", "crane", "deer", "dove", "eagle", "falcon", "finch", "fox", "gull",
    "hare", "heron", "horse", "jay", "lark", "lynx", "marten", "mole", "newt", "orca", "otter", "owl",
    "panda", "robin", "seal", "stoat", "swan", "tern", "whale", "wren",
];

/// Returns a name built from 16 random bits, such as `brave-otter`.
pub(crate) fn from_random(bits: u16) -> String {
    let pick = |words: [&'static str; 32], bits: u16| words[usize::from(bits % 32)];
    format!("{}-{}", pick(ADJECTIVES, bits), pick(ANIMALS, bits >> 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generated_name_is_a_valid_vm_name() {
        for bits in 0..1024 {
            from_random(bits).parse::<banger_api::VmName>().unwrap();
        }
    }
}
