"""The Triton renderer: loop IR to readable Triton source."""
