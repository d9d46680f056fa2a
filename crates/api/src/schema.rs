//! JSON schemas of value types that are texts.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Digest, Id, ImageName, Name, VmName};

macro_rules! text {
    ($type:ident, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text!(Id, { "type": "string", "description": "An id: 16 hexadecimal digits.", "pattern": "^[0-9a-f]{16}$" });

text!(VmName, {
    "type": "string",
    "description": "A VM's name: 1 to 63 of a-z, 0-9 and -, with - at neither end.",
    "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
});

text!(Name, {
    "type": "string",
    "description": "A kernel's name: 1 to 63 of a-z, 0-9, -, . and _, with a letter or digit at both ends.",
    "pattern": "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
});

text!(ImageName, {
    "type": "string",
    "description": "An image's name: [REGISTRY/]REPOSITORY[:TAG][@DIGEST].",
});

text!(Digest, {
    "type": "string",
    "description": "The SHA-256 of some bytes.",
    "pattern": "^sha256:[0-9a-f]{64}$",
});

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    /// Texts that match the pattern of a type.
    fn texts<T: JsonSchema>() -> impl Strategy<Value = String> {
        let schema = T::json_schema(&mut SchemaGenerator::default());
        // The strategy's expressions match whole texts, and have no anchors.
        let pattern = schema.as_value()["pattern"].as_str().unwrap();
        string_regex(pattern.trim_start_matches('^').trim_end_matches('$')).unwrap()
    }

    proptest! {
        #[test]
        fn texts_that_match_the_schemas_pattern_are_valid(
            vm in texts::<VmName>(), name in texts::<Name>(), id in texts::<Id>(), digest in texts::<Digest>(),
        ) {
            prop_assert!(vm.parse::<VmName>().is_ok());
            prop_assert!(name.parse::<Name>().is_ok());
            prop_assert!(id.parse::<Id>().is_ok());
            prop_assert!(digest.parse::<Digest>().is_ok());
        }
    }
}
