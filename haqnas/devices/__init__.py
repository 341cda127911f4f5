"""Where executables run: this machine or an emulator."""
