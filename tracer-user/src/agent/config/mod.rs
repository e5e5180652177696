//! The configuration of the agent: one TOML file, flags, environment. What a flag says is stronger than the environment,
//! that is stronger than the file, and that than what holds by itself.

mod check;
mod error;
mod overrides;
mod reload;
mod schema;
mod settings;
mod units;

#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use overrides::Overrides;
pub use reload::{Part, Reload, changes};
pub use schema::*;
pub(in crate::agent) use settings::glob;
use std::{fs, path::Path};

/// The longest file that is read: ours has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// Reads the file, if there is one, puts the overrides over it and checks that it makes sense.
    ///
    /// # Errors
    /// The file cannot be read or is wrong, or something makes no sense: a sentence with the line.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut config = match file {
            Some(file) => Config::parse(file, &read(file)?)?,
            None => Config::default(),
        };
        overrides.put_over(&mut config);
        config.check()?;
        Ok(config)
    }

    /// What a file's text says, not checked yet.
    fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::of_toml(file.to_owned(), text, &error))
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { file: file.to_owned(), error };
    if fs::metadata(file).map_err(unreadable)?.len() > MAX_FILE {
        let error = std::io::Error::other("larger than a megabyte: that is no configuration of sfgi");
        return Err(unreadable(error));
    }
    fs::read_to_string(file).map_err(unreadable)
}
