# What run.sh and targets.sh share; they source it. Sets repo, here, out and teacher, and makes the corpus and the teacher
# if they are not there already.
#   $1 FSDD_DIR, $2 OUT
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mkdir -p "$2"
out="$(cd "$2" && pwd)"
export PYTHONPATH="$repo"
here="$repo/examples/dphubert"
teacher="$out/teacher/checkpoint_last.pt"

train() { # configuration, name, further keys
    local config=$1 name=$2
    shift 2
    [ -f "$out/$name/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name "$config" hydra.run.dir="$out/$name" \
        common.user_dir="$repo/fairseq_prune" task.data="$out/data" checkpoint.save_dir="$out/$name" "$@"
    touch "$out/$name/complete"
}

with_gates() { # name, further keys: stage 1, which learns what to prune
    train digits "$1" model.teacher_path="$teacher" "${@:2}"
}

without_gates() { # name, student, updates, further keys: distils into a model of fixed size
    train digits "$1" model.teacher_path="$teacher" model.student_path="$2" model.prune=none optimizer._name=adam \
        ~optimizer.gate_lr optimization.max_update="$3" lr_scheduler.total_num_update="$3" "${@:4}"
}

compress() { # name of stage 1, file to write
    [ -f "$2" ] ||
        python "$repo/scripts/compress_hubert.py" --checkpoint "$out/$1/checkpoint_last.pt" --out "$2"
}

cut_untrained() { # how, model whose size to have, file to write
    [ -f "$3" ] ||
        python "$here/cut_untrained.py" --teacher "$teacher" --size-of "$2" --how "$1" --out "$3"
}

if [ ! -d "$out/data" ]; then
    python "$repo/data_prep/prep_digits.py" --fsdd "$1" --out "$out/corpus" --sample-rate 16000 \
        --test-indices 5-9 --dev-indices 10-14 --train-pairs 2 4 --train-utterances 3000 \
        --dev-utterances 100 --test-utterances 50 --trim-db 40 --normalize rms
    python "$repo/data_prep/prep_audio.py" --audio "$out/corpus/en-de/data/train/wav" \
        --valid-audio "$out/corpus/en-de/data/dev/wav" --out "$out/data"
fi
[ -f "$out/data/dict.km.txt" ] || python "$here/mfcc_labels.py" "$out/data"
train digits_teacher teacher
