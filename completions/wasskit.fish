# Tab completion of wasskit for fish. Put this file into ~/.config/fish/completions.
function __wasskit_ask
    env _WASSKIT_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) wasskit
end
complete --command wasskit --no-files --condition "__wasskit_ask is-args" --arguments "(__wasskit_ask get-args)"
