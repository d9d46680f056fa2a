//! The attribute `#[scenario]`, which registers a function with the runner of `banger-smoke`.

use proc_macro::{TokenStream, TokenTree};

/// Registers a `fn() -> anyhow::Result<()>` as a scenario with these marks, variants of `banger_smoke::Mark`.
///
/// `#[scenario(Here, Lab, Slow)]` runs it in the tiers `here` and `lab`, before scenarios that are not slow.
#[proc_macro_attribute]
pub fn scenario(marks: TokenStream, function: TokenStream) -> TokenStream {
    let mut words = function.clone().into_iter().map(|token| token.to_string());
    let name = words.by_ref().skip_while(|word| word != "fn").nth(1).unwrap_or_default();
    let marks = marks.into_iter().filter_map(|token| match token {
        TokenTree::Ident(mark) => Some(format!("::banger_smoke::Mark::{mark},")),
        _ => None,
    });
    let registration = format!(
        "::banger_smoke::submit! {{ ::banger_smoke::Scenario {{
            module: ::core::module_path!(), name: \"{name}\", run: {name}, marks: &[{}],
        }} }}",
        marks.collect::<String>()
    );
    let registration: TokenStream = registration.parse().unwrap_or_default();
    registration.into_iter().chain(function).collect()
}
