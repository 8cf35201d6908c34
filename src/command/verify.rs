//! `sara demo`.
use super::Failure;
#[derive(clap::Args)]
pub(super) struct Args {}
pub(super) fn run(_: &Args) -> Result<(), Failure> {
    Err(Failure::Plain("not yet".into()))
}
