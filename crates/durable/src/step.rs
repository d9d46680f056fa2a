//! Named steps of a program's work, and their fail points.

/// Whether this build can be killed at fail points.
pub const HAS_FAIL_POINTS: bool = cfg!(feature = "fail-points");

/// Performs `work`, between the fail points of the step `name`.
///
/// # Errors
/// Returns the error of `work`.
pub fn around<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    reach_before(name);
    let done = work()?;
    reach_after(name);
    Ok(done)
}

/// Reaches the fail point before the step `name`. Does nothing in a build without fail points.
pub fn reach_before(name: &str) {
    reach(name, "before");
}

/// Reaches the fail point after the step `name`. Does nothing in a build without fail points.
pub fn reach_after(name: &str) {
    reach(name, "after");
}

/// Reaches a stage of an operation, at which a test build can be killed too.
///
/// Stages are not among the steps' points: between two steps, the next process can distinguish nothing except fetched
/// files.
pub fn reach_stage(stage: &str) {
    #[cfg(feature = "fail-points")]
    crate::fail::reach_stage(stage);
    let _ = stage;
}

fn reach(name: &str, side: &str) {
    #[cfg(feature = "fail-points")]
    crate::fail::reach(&format!("{name}:{side}"));
    let _ = (name, side);
}

/// Returns the points of the steps with these names.
pub fn fail_points<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let both = |name: &str| ["before", "after"].map(|side| format!("{name}:{side}"));
    names.into_iter().flat_map(both).collect()
}

/// Declares an enum of steps together with the list of all, so that the list is complete.
#[macro_export]
macro_rules! steps {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[doc = $doc:literal])* $step:ident = $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[doc = $doc])* $step,)*
        }

        #[allow(dead_code)] // not every program uses all of it
        impl $name {
            /// The names of all steps.
            $vis const NAMES: &'static [&'static str] = &[$($text,)*];

            /// Returns the step's name.
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $text,)*
                }
            }

            /// Performs the step, between its fail points.
            $vis fn around<T, E>(self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
                $crate::around(self.name(), work)
            }

            /// Performs an asynchronous step, between its fail points.
            $vis async fn around_async<T, E>(
                self,
                work: impl ::core::future::Future<Output = Result<T, E>>,
            ) -> Result<T, E> {
                $crate::reach_before(self.name());
                let done = work.await?;
                $crate::reach_after(self.name());
                Ok(done)
            }
        }
    };
}
