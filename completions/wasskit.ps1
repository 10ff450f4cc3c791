# Tab completion of wasskit for PowerShell. Dot-source this file, e.g. from $PROFILE.
Register-ArgumentCompleter -Native -CommandName wasskit -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $Env:_WASSKIT_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $commandAst.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $wordToComplete
    try {
        wasskit | ForEach-Object {
            $value, $help = $_ -split ":::", 2
            if (-not $help) { $help = $value }
            [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
        }
    } finally {
        Remove-Item Env:_WASSKIT_COMPLETE, Env:_TYPER_COMPLETE_ARGS, Env:_TYPER_COMPLETE_WORD_TO_COMPLETE
    }
}
