"""The feed: every change in commit order, and the news of it to those who wait."""
