"""What a plan and a tape are, told to people."""
