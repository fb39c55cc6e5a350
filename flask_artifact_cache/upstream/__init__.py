"""Where artifacts come from: GitHub, asked seldom, and with care."""
