"""The commands of the command line, a module each: their arguments, what they do, what they print."""
