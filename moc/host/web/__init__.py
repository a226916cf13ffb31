"""What the browser is sent, and what it may ask for."""
