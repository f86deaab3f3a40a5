// Annotations of clang's thread-safety analysis: which lock guards what. `make lint` has clang
// check them where clang++ exists; for other compilers they expand to nothing.
//
// The analysis does not follow references: it cannot know that `EngineState` refers to what the
// engine's lock guards, nor that the lock of one object guards another. Comments say so there.
#pragma once

#if defined(__clang__)
#define KVS_THREAD_ANNOTATION(attribute) __attribute__((attribute))
#else
#define KVS_THREAD_ANNOTATION(attribute)
#endif

#define CAPABILITY(name) KVS_THREAD_ANNOTATION(capability(name))
#define SCOPED_CAPABILITY KVS_THREAD_ANNOTATION(scoped_lockable)
#define GUARDED_BY(lock) KVS_THREAD_ANNOTATION(guarded_by(lock))
#define REQUIRES(...) KVS_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) KVS_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) KVS_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) KVS_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) KVS_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS KVS_THREAD_ANNOTATION(no_thread_safety_analysis)
