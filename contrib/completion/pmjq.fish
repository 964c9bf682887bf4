# Completion of pmjq for fish. pmjq itself answers, see pmjq/shells.py: it gets the words up to the
# cursor, the last one as it is typed; fish quotes what it inserts.

function __pmjq_complete
    set -l words (commandline -opc)
    set -l token (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in (env _PMJQ_COMPLETE=fish $program $words "$token" 2>/dev/null </dev/null)
        set -l parts (string split \t -- $line)
        set -l option (string match -r -- '^--[^=]*=' "$token")
        set -l path (string replace -r -- '^--[^=]*=' '' "$token")
        switch $parts[1]
            case dir
                printf "$option%s\n" (__fish_complete_directories "$path")
            case file
                printf "$option%s\n" (__fish_complete_path "$path")
            case plain open
                printf '%s\t%s\n' $parts[2] $parts[3]
        end
    end
end

complete -c pmjq -f -a '(__pmjq_complete)'
