function _rokuon_completion
    set -l response (env _ROKUON_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) rokuon)
    for completion in $response
        set -l answer (string split -m 1 -- "," $completion)
        switch $answer[1]
            case dir
                __fish_complete_directories $answer[2]
            case file
                __fish_complete_path $answer[2]
            case plain
                printf '%s\n' $answer[2]
        end
    end
end

complete --no-files --keep-order --command rokuon --arguments "(_rokuon_completion)"
