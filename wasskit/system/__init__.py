"""What every floor may use of the operating system: files and their readers, locks, signals, child processes, hints.

Free of torch.
"""
