"""An encoder as a folder that other libraries load, and on the hub."""
