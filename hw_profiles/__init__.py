"""Hardware profiles: one TOML file a target; see README.md for the fields."""
