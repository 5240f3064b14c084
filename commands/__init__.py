"""The commands, a module each; `rokuon.cli` imports the one that is called."""
