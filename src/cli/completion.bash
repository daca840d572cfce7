# shellcheck shell=bash
# Bash splits words at : = and @ too, which the names of images have. This function joins what belongs together, asks
# _clap_complete_lmdb_images, and takes off the answers what bash regards as words before the one that it completes.
_lmdb_images() {
    local split=("${COMP_WORDS[@]}") at=$COMP_CWORD rest=$COMP_LINE current=$2
    local word space last='' before='' i n=-1
    local COMP_WORDS=() COMP_CWORD=-1
    for i in "${!split[@]}"; do
        word=${split[i]}
        space=${rest%%[![:space:]]*}
        rest=${rest#"$space"}
        rest=${rest#"$word"}
        if [[ $n -ge 0 && ! $space && ($word =~ ^[:=@]+$ || $last =~ ^[:=@]+$) ]]; then
            # What is behind the cursor is not part of the word to complete.
            [[ $n -ne $COMP_CWORD ]] || continue
        else
            n=$((n + 1))
            COMP_WORDS[n]=''
        fi
        last=$word
        if [[ $i -eq $at ]]; then
            # With the cursor behind a separator, bash completes an empty word.
            [[ $current || ! $word =~ ^[:=@]+$ ]] || COMP_WORDS[n]+=$word
            before=${COMP_WORDS[n]} COMP_CWORD=$n word=$current
        fi
        COMP_WORDS[n]+=$word
    done
    _clap_complete_lmdb_images "$1" "$before$current" "$3"
    ((${#COMPREPLY[@]} == 0)) || COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
