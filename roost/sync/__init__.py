"""Pure: the conversation between server and device."""
