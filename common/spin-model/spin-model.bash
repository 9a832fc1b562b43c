# bash completion for spin-model(1)
_spin_model() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command= i
  local every="--json --quiet --threads --backend --help --version"
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --threads | --backend) i=$((i + 1)) ;;
      -*) ;;
      *)
        command=${COMP_WORDS[i]}
        break
        ;;
    esac
  done
  case $previous in
    --backend) mapfile -t COMPREPLY < <(compgen -W "cpu openblas cuda cuda-fp32" -- "$word") && return ;;
    --dtype) mapfile -t COMPREPLY < <(compgen -W "F32 BF16 F16 Q8_0" -- "$word") && return ;;
    --to) mapfile -t COMPREPLY < <(compgen -W "gguf hf" -- "$word") && return ;;
    --input | --messages | --config | --tokenizer | -i | -c)
      mapfile -t COMPREPLY < <(compgen -f -- "$word") && return
      ;;
  esac
  if [ -z "$command" ]; then
    mapfile -t COMPREPLY < <(compgen -W "info tokenize logprobs render generate init convert bench help $every" -- "$word")
    return
  fi
  case $command:$word in
    info:-*) every="$every --tensors --digest" ;;
    tokenize:-*) every="$every --decode --special --skip-special --lines --tokens" ;;
    logprobs:-*) every="$every --input --format --template --date" ;;
    render:-*) every="$every --messages --template --date" ;;
    generate:-*)
      every="$every --prompt --prompt-ids --system --template --date --temperature --top-k --top-p
        --max-new-tokens --seed --samples --greedy"
      ;;
    init:-*) every="$every --config --seed --tokenizer --dtype" ;;
    convert:-*) every="$every --to --dtype --tokenizer --held-out" ;;
    bench:-*)
      every="$every --only --longest --repeats --seconds --seed --pairs --micro --memory --sequences
        --optimizer-state --optimizer-offload --rows --weights --activations --kv"
      ;;
    *)
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
      return
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$every" -- "$word")
}
complete -o filenames -F _spin_model spin-model
