//! The wire between banger and bangerd, and the product's value types.
