//! Runs command lines in this process against a guest that says whatever the bytes make of it, in a sandbox.

use std::cell::RefCell;

use banger_hostile::{Case, Client, Harness, Programs};

thread_local! {
    static HARNESS: RefCell<Harness> =
        RefCell::new(Harness::new(Client::InProcess(|arguments| Box::pin(banger::run(arguments)))));
}

pub(crate) fn run(data: &[u8]) {
    HARNESS.with_borrow_mut(|harness| {
        let case = Case::generate(data, harness.workspace(), Programs::None);
        let violations = harness.run_case(&case);
        let broken: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{}\n{case:#?}", broken.join("\n"));
    });
}
