"""Programs that try to leave the jail or to be graded as correct without being correct."""
