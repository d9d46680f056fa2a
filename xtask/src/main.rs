//! Work on the project.
fn main() {}
