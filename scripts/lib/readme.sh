# shellcheck shell=bash
# The commands that a Markdown file shows in its fenced blocks, run and compared; sourced after
# common.sh and expect.sh, never run.
#
# In a block with lines that begin with "$ ", these lines are commands, and the lines below each are its
# output; in another block every line is a command. A block with a language ("```toml") has no commands.
# "…" in the output stands for any text in a line, and alone on a line for any lines. A
# command may fail only where the file shows it: by "$ echo $?" after it, or by words of the
# program's own ("ctr: …").

declare -a README_SECTION=() README_LANGUAGE=() README_TEXT=() # one each a block

# readme_read FILE...: takes their blocks into those.
readme_read() {
    local file
    README_SECTION=() README_LANGUAGE=() README_TEXT=()
    for file; do readme_add "$file"; done
}

# readme_add FILE
readme_add() {
    local line section='' language='' text=''
    local inside=''
    while IFS= read -r line || [[ $line ]]; do
        if [[ $line == '```'* && -z $inside ]]; then
            inside=1 language=${line#'```'} text=
        elif [[ $line == '```' ]]; then
            inside=
            README_SECTION+=("$section") README_LANGUAGE+=("$language") README_TEXT+=("$text")
        elif [[ $inside ]]; then
            text+=$line$'\n'
        elif [[ $line =~ ^##+\ (.*) ]]; then
            section=${BASH_REMATCH[1]}
        fi
    done <"$1"
    [[ -z $inside ]] || fail "$1: a block in section \"$section\" has no end"
}

# readme_block NUMBER RUNNER: each command of the block is given to RUNNER, and the exit status
# of the command before it, for "echo $?"; the output is compared.
readme_block() {
    local number=$1 runner=$2 line i status=0 prompts=
    local -a commands=() wanted=()
    [[ $'\n'${README_TEXT[number]} != *$'\n$ '* ]] || prompts=1
    while IFS= read -r line; do
        if [[ $prompts && $line == '$ '* ]]; then
            commands+=("${line#'$ '}") wanted+=('')
        elif [[ $prompts ]]; then
            ((${#commands[@]})) || fail "section \"${README_SECTION[number]}\": nothing prints this: $line"
            wanted[${#commands[@]} - 1]+=$line$'\n'
        elif [[ $line =~ [^[:space:]] && ! $line =~ ^[[:space:]]*# ]]; then
            commands+=("$line") wanted+=('')
        fi
    done < <(printf %s "${README_TEXT[number]}")
    for ((i = 0; i < ${#commands[@]}; i++)); do
        readme_command "$runner" "${commands[i]}" "${wanted[i]}" "$prompts" "${commands[i + 1]:-}"
    done
}

# readme_command RUNNER COMMAND SHOWN COMPARE NEXT: uses and sets "status" of readme_block.
readme_command() {
    local runner=$1 command=$2 shown=$3 compare=$4 next=$5 said before=$status
    # A comment is no part of the name of a test.
    local name=${command%%  #*}
    name=${name%"${name##*[![:space:]]}"}
    # The output goes to a file: a runner may start a process that continues.
    make_tmp
    "$runner" "$command" "$before" >"$WORK/said" 2>&1 && status=0 || status=$?
    said=$(<"$WORK/said")
    # As it is written in the file, not a variable of ours.
    # shellcheck disable=SC2016
    if ((status != 0)) && [[ $next != 'echo $?' && $shown != "${command%% *}: "* ]]; then
        fail "$name: exit status $status: $said"
    fi
    [[ -z $compare ]] || readme_same "$shown" "$said" ||
        fail "$name"$'\n'"--- the file has"$'\n'"$shown--- it printed"$'\n'"$said"
    ok "$name"
}

# readme_same SHOWN GOT: whether the output GOT equals the text SHOWN, except for blanks at the ends of lines.
readme_same() {
    local i=0 j=0 star='' from=0 line
    local -a shown=() got=()
    # Patterns of the shell: all that means something in one is made plain.
    mapfile -t shown < <(printf %s "$1" | sed 's/[[:space:]]*$//; s/^[[:space:]]*…$/…/; s/[][*?\()|+@!]/\\&/g; /^…$/!s/…/*/g')
    mapfile -t got < <([[ -z $2 ]] || printf '%s\n' "$2" | sed 's/[[:space:]]*$//')
    while ((j < ${#got[@]})); do
        line=${shown[i]-}
        if ((i < ${#shown[@]})) && [[ $line == '…' ]]; then
            star=$i from=$j i=$((i + 1))
        elif ((i < ${#shown[@]})) && readme_line "${got[j]}" "$line"; then
            i=$((i + 1)) j=$((j + 1))
        elif [[ $star ]]; then
            # The last "…" stands for one line more.
            from=$((from + 1)) j=$from i=$((star + 1))
        else
            return 1
        fi
    done
    while [[ ${shown[i]-} == '…' ]]; do i=$((i + 1)); done
    ((i == ${#shown[@]}))
}

# readme_line TEXT PATTERN
readme_line() {
    # shellcheck disable=SC2053
    [[ $1 == $2 ]]
}
