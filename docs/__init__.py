"""The documentation, and the script that writes the parts of it that follow from the settings models."""
