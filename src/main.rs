//! The `sara` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    sara::command::main()
}
