"""HTTP routes: the native ones, and one thin file for each foreign protocol."""
