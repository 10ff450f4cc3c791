"""What every floor may use of the operating system: files, locks, signals, child processes, hints. Free of torch."""
