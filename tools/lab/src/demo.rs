//! Shows the driver at work in a few lines.

use anyhow::{bail, Result};

use crate::session::Session;

pub fn run(_session: &mut Session) -> Result<()> {
    bail!("the demo is not there yet")
}
