"""The command line: click commands without logic over `haqnas.api`."""
