"""The strategies that come with haqnas, one file each; pyproject.toml registers them."""
