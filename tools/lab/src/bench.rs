//! Measures drivers.

use anyhow::{bail, Result};

use crate::session::Session;

pub fn run(_session: &mut Session, _rounds: u32, _quick: bool) -> Result<()> {
    bail!("the bench is not there yet")
}
