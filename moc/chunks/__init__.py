"""Where tokens stand: cut into chunks once per layout."""
