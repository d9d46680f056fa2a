//! What is in a user's repository, read as the user.
//!
//! Everything in a repository is hostile until checked: what is read of it is bounded, no symbolic link in it is gone
//! through, and what it names is a harmless word before it is put into anything that is run.

pub mod tools;
