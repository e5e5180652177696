//! Prints the layouts of Go programs that have DWARF, one a line, as `sfgi --layout` reads them:
//! what `cargo xtask layouts` makes its table of.

use anyhow::{Context as _, Result};
use sfgi_core::binary::{GoBinary, Layout};
use std::{collections::BTreeMap, env, fs::File, path::PathBuf};

fn main() -> Result<()> {
    for path in env::args_os().skip(1).map(PathBuf::from) {
        let binary = GoBinary::open(&path).with_context(|| path.display().to_string())?;
        let version = binary.version();
        let layout = Layout::of_dwarf(File::open(&path)?)
            .with_context(|| format!("{}: its DWARF does not tell the layout", path.display()))?;
        let go = version.raw.strip_prefix("go").unwrap_or(&version.raw);
        let offsets: BTreeMap<_, _> = layout.fields().collect();
        println!("{}", serde_json::json!({"go": go, "arch": binary.arch().go_name(), "offsets": offsets}));
    }
    Ok(())
}
